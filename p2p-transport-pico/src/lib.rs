//! The board over SSH: pico.sh's pipe, or anything that behaves like it.
