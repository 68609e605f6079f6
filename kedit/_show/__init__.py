"""How edits and results are shown: as pictures, as HTML in a notebook, and as code."""
