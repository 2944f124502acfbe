//! Every byte that another process, a file or a tool sees.
