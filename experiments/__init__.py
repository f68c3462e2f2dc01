"""One command line that regenerates every figure and table of the paper.

``python -m experiments --help`` lists the verbs. An experiment is a folder of this package with
``settings.py``, ``measure.py`` and ``draw.py``; `experiments.command.registry` has the table of
them and says what each part is. Below them lie `data`, `networks`, `runs`, `drawing`, `command`.
"""
