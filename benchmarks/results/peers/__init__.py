"""Networks of other libraries that ``same_budget`` trains beside ours."""
