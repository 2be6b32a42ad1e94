"""`python -m openood_interneg.main`: OpenOOD's main.py with our names registered."""

from openood_interneg.plugin.main import main

if __name__ == "__main__":
    main()
