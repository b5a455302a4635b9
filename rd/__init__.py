"""ReflectDiffu: empathetic response generation, from the raw dialogue to the table.

Shape letters, used in every docstring:

    B batch        L context words    T response words   D model width      Db BERT width
    V vocabulary   X extended vocabulary (V and the words of one context that V lacks)
    E emotions (32)   I intents (9)   K reference intents (3)   N diffusion steps   S memory slots
"""

__version__ = "0.1.0"
