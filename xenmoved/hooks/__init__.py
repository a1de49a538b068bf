"""Programs of the operator's that are run before, at and after a move of a guest.

events    at what they are run, and in which folders they are
about     what a hook is told on its standard input, and the schema of that
found     which programs of a folder are run, and why others are not
keeper    runs one, and leaves nothing of it behind; a process of its own
running   has a keeper run one, and collects what it says
said      what an operator is told of it: problems and remarks
owed      what is still to be run for jobs that have ended, across restarts
hooks     all of them, for one job after another
report    what an operator is shown of them
"""
