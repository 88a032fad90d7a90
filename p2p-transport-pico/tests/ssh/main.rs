//! The board against real servers: the hub in this process, pico's own pipe where there is one, and OpenSSH's `sshd`.
//!
//! Needs `sshd` (Debian: package openssh-server) and `ssh-keygen`, `ssh-agent`, `ssh-add` (openssh-client). Nothing runs as a
//! service or as another user, and nothing outside temporary folders is read or written, but for `/run/sshd`, the empty folder
//! that `sshd` insists on when it runs as root.

mod jump;
mod kit;
mod login;
mod members;
mod quirks;
mod relay;
mod server;
mod sides;
mod site;
mod sshd;
