//! CPU sets, BDFs, sizes, times and exit codes, parsed and printed one way everywhere.
