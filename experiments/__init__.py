"""One command line that regenerates every figure and table of the paper.

``python -m experiments --help`` lists the verbs. An experiment is a module of this package with
``SUMMARY``, ``Settings``, ``PRESETS``, ``runs``, ``compute`` and ``draw``; `experiments.registry`
has the table of them and says what each part is.
"""
