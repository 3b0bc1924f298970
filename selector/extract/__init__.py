"""From items to features: decoded images (``pixels``) and networks run over them (``encode``)."""
