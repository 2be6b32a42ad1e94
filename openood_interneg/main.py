"""`python -m openood_interneg.main`: OpenOOD's main.py with our names registered."""

from openood_interneg.cli.console import guarded
from openood_interneg.plugin import main as plugin_main

main = guarded(plugin_main.main)

if __name__ == "__main__":
    main()
