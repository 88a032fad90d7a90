//! Properties that hold for any message, stream or order of events, not only for those of the golden vectors.

mod arbitrary;
mod beyond;
mod handshake;
mod hostile;
mod inbox;
mod lines;
mod longest;
mod outgoing;
mod round_trip;
mod stream;
mod trust;
