"""`python -m bluegreen.schema VERB`, in a release's virtualenv."""

import sys

from bluegreen.schema.service import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
