"""The commands of ``slimline``: one file a command, or a family of them. What they do stands beside this package."""
