//! Runs attempts on this machine: commands in scratch folders and process groups of their own.
