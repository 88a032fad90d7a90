//! Client, worker and host: pure state machines, thin drivers, and the API to embed them.
#![forbid(unsafe_code)]

pub mod executor;
