"""D-FINE, a detector for real time, made of the parts that the library transformers has."""
