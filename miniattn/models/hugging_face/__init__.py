"""Models in the Hugging Face layout: a folder of ``config.json`` and safetensors files.

`weights` reads arrays one at a time, `settings` knows which settings were read, `families` lists
the families. Each has a function, in a file of its kin: what its settings ask for, and, by `rules`,
where its arrays go.
"""

from miniattn.models.hugging_face.load import load_folder

__all__ = ["load_folder"]
