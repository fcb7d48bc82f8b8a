"""Drop-ins for other people's frameworks, one module for each; import the one you use."""
