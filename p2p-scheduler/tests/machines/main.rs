//! The machines of all three roles against each other in virtual time, and one by one against what a peer may do to them.

mod admission;
mod belonging;
mod chaos;
mod hostile;
mod links;
mod locality;
mod moving;
mod rate;
mod scheduling;
mod setup;
mod sharing;
