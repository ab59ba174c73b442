"""How good, how different, how connected: measurements on finished runs, numpy only.

``metrics`` (scores), ``diversity`` (do members err differently), ``connectivity`` (what lies
between two sets of weights), ``intervals`` (how sure are we), ``selection`` (which members),
``evidence`` and ``diagnosis`` (why an average worked or not), ``wording`` (numbers in words).
"""
