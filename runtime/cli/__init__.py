"""The command ``splade-edge``: parse arguments, call the API, print.

Begin with main.py: the parser, the list of commands, and what an error looks like. command.py says what a command is;
each command is a class in the module of its name (change.py has add, update, delete and compact). console.py prints,
progress.py shows progress, answers.py is shared by search and eval. start.py and early.py come before everything else,
so that an interrupt is one line while modules are loaded; interrupts.py treats those that come later.
"""
