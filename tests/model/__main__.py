"""`python -m tests.model`: check the protocol, show how a broken variant fails, or draw the states of an order."""

import argparse
import sys

from tests.model.picture import README, write_picture
from tests.model.search import explore, summary, trace_lines
from tests.model.searches import SEARCHES, VARIANTS, search_for


def main() -> int:
    """Check the protocol. The exit status is 1 when a rule is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=main.__doc__)
    parser.add_argument("--variant", choices=VARIANTS, help="check a broken protocol, and show how it fails")
    parser.add_argument("--picture", action="store_true", help=f"check the protocol, and draw its states in {README}")
    arguments = parser.parse_args()
    if arguments.variant:
        rules = search_for(arguments.variant)
        result = explore(rules)
        print(f"{arguments.variant}: {summary(result)}", *trace_lines(result, rules), sep="\n")
        return 0
    results = []
    for name, rules in SEARCHES.items():
        results.append(explore(rules))
        print(f"{name}: {summary(results[-1])}", *trace_lines(results[-1], rules), sep="\n", flush=True)
    if arguments.picture:
        write_picture(results)
    return int(any(result.reason for result in results))


if __name__ == "__main__":
    sys.exit(main())
