"""Matrix products, linear maps, and the panels that they are made of."""
