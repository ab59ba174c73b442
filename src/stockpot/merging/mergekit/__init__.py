"""mergekit's recipe language, whole: each key is read with mergekit's meaning, or refused by name.

``declaration`` lists every key, method and parameter, and what becomes of it. ``reading`` makes a
``document`` of a file by that list, ``values`` finds a parameter's value for a tensor, ``layout``
says what each tensor of the result is made of, ``tokens`` brings vocabularies together.
"""
