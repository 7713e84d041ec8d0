"""Mutation testing: change the code a little, and see that some test notices.

Run by ``make mutate``; see ``__main__.py``. It is our own since nothing else found changes SQL,
where many of the store's rules stand, and runs only the tests that can notice a change.
"""
