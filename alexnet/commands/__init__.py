"""The subcommands of `alexnet`, one module each.

A command is a module with `Options`, a frozen dataclass that `alexnet.options` reads from the
command line, and `main(options)`, which returns the exit code. It may have `defaults(given)`,
which returns values that replace the dataclass's own defaults, and `WORDS`, values for the help to
list. `alexnet.cli.COMMANDS` lists it.
"""
