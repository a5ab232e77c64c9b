"""What the subcommands of `i2vpp` do; `i2vpp.cli` parses their arguments and prints."""
