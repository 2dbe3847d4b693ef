"""The subcommands of `alexnet`, a module each.

A command is a module with `Options`, a frozen dataclass that `alexnet.options` reads from the
command line, and `main(options)`, which returns the exit code. It may have `defaults(given)`,
values in place of the dataclass's own defaults, and `WORDS`, values for the help to list.
`alexnet.cli.COMMANDS` names it.
"""
