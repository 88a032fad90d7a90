//! Client, worker and host: pure state machines, their drivers, and the API to embed them.
