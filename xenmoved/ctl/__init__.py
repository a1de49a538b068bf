"""The command `xenmovectl`.

    main        entry point: from a command line to an exit code
    parser      verbs and options, and their help
    arguments   the kinds of values that options take
    completion  the names that a shell can complete
    exits       exit codes, and the error that carries one
    daemon      requests to the daemon, and their refusals
    verbs       one function for each verb; peer_verbs: those of `peer`
    follow      watches a job to its end, on a terminal, as lines or as JSON
    output      where results, notes and errors go
    text        lines of styled text that cannot harm a terminal
    views       what the daemon's answers look like; job_views: jobs; live: jobs on a terminal

Nothing that takes long to import is imported before it is needed: `rich` only for a live display.
"""
