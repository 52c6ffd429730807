"""Models in the Hugging Face layout: a folder of ``config.json`` and safetensors files.

`weights` reads arrays one at a time, `settings` knows which settings were read, `families` has a
table for each family of models: what its settings ask for, and where its arrays go.
"""

from miniattn.models.hugging_face.load import load_folder

__all__ = ["load_folder"]
