"""Parts written outside of mage_kit, by the names that it exports. They are real: each learns on digits; and checks
that a mutant must fail show that the checks can."""
