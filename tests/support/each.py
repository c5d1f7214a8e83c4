"""One test for many files: thousands of tests cost more than the milliseconds each one takes."""

import functools


def each(things, name):
    """Run a test for every one of `things`, and fail with the names of all that fail."""

    def decorate(test):
        @functools.wraps(test)
        def run():
            failed = []
            for thing in things:
                try:
                    test(thing)
                except AssertionError as error:
                    failed.append(f"{name(thing)}: {error}")
            assert not failed, "\n".join(failed)

        del run.__wrapped__  # pytest would ask for the argument of the test
        return run

    return decorate
