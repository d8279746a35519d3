"""Methods compared on suites of data sets: plan, runs, store of results, tables and report."""
