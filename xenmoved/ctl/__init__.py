"""The command `xenmovectl`.

main              entry point: from a command line to an exit code
parser            verbs and options, and their help
command_line      how argparse is used
help              how help texts are wrapped
arguments         the kinds of values that options take
transfer_options  options of every verb that sends something
trust_verbs       verbs about certificates
check_options     options of `check`
completion        the names that a shell can complete
exits             exit codes, and the error that carries one
daemon            requests to the daemon, and their refusals
verbs             one function for each verb
checks            what `check` finds wrong with a host
confirm           asks at the terminal whether something is meant
follow            watches a job to its end, on a terminal, as lines or as JSON
views             what the daemon's answers look like
report            a job as one page of HTML
records           what --json prints, and its JSON Schema
output            where results, notes and errors go
text              lines and tables of styled text that cannot harm a terminal
layout            how they are laid out for its width

Nothing that takes long to import is imported before it is needed: `rich` only for a live display.
"""
