//! Is this the server that was here before? `known_hosts` as OpenSSH keeps it: patterns, hashed names, markers, `[host]:port`.
//!
//! A server with any known key is never asked about again: another key of the same type has changed, and a key of another
//! type may be all that an impostor has to show.
#![warn(clippy::disallowed_methods)]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

/// The lines of some files that speak about one server.
#[derive(Debug, Default)]
pub(crate) struct KnownHost {
    keys: Vec<KnownKey>,
}

#[derive(Debug)]
struct KnownKey {
    place: Place,
    revoked: bool,
    kind: String,
    key: String,
}

/// Where something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file's number, in the order in which they were read.
    pub(crate) file: usize,
    /// The line's, the first one is 1.
    pub(crate) line: usize,
}

/// What the files say about the key that a server shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is the key of this server.
    Known,
    /// Nothing is known about this server.
    New,
    /// Another key is known for it there.
    Changed(Place),
    /// This key is revoked there.
    Revoked(Place),
}

impl KnownHost {
    /// Reads the `text` of the file of this number for the server `name`, as [`crate::BoardAddress::known_as`] gives it. `hashed` tells
    /// whether a hashed name field stands for `name`. Lines that cannot be read and certificate authorities are skipped, as OpenSSH
    /// does.
    pub(crate) fn read(&mut self, file: usize, text: &str, name: &str, hashed: impl Fn(&str) -> bool) {
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace().peekable();
            let marker = words.next_if(|word| word.starts_with('@'));
            let (Some(names), Some(kind), Some(key)) = (words.next(), words.next(), words.next()) else { continue };
            let usable = !names.starts_with('#') && marker.is_none_or(|marker| marker == "@revoked");
            let about = || if names.starts_with('|') { hashed(names) } else { matches(names, name) };
            if usable && about() {
                let (kind, key) = (kind.to_owned(), key.to_owned());
                let place = Place { file, line: index + 1 };
                self.keys.push(KnownKey { place, revoked: marker.is_some(), kind, key });
            }
        }
    }

    /// What is known about `key`, the wire form of a public key.
    pub(crate) fn standing(&self, key: &[u8]) -> Standing {
        let shown = STANDARD.encode(key);
        if let Some(revoked) = self.keys.iter().find(|known| known.revoked && known.key == shown) {
            return Standing::Revoked(revoked.place);
        }
        let mut valid = self.keys.iter().filter(|known| !known.revoked);
        if valid.clone().any(|known| known.key == shown) {
            return Standing::Known;
        }
        let kind = key_kind(key);
        let same_kind = valid.clone().find(|known| known.kind == kind);
        same_kind.or_else(|| valid.next()).map_or(Standing::New, |known| Standing::Changed(known.place))
    }

    /// Host key algorithms in order of preference: those whose keys are known first, so that a server with several keys shows one
    /// that can be compared.
    pub(crate) fn prefer<'a>(&self, supported: &[&'a str]) -> Vec<&'a str> {
        let known = |algorithm: &&str| self.keys.iter().any(|key| !key.revoked && key.kind == key_type_of(algorithm));
        let (mut first, rest): (Vec<&str>, Vec<&str>) = supported.iter().partition(|algorithm| known(algorithm));
        first.extend(rest);
        first
    }
}

/// The line that makes `key` known for `name`.
pub(crate) fn new_line(name: &str, key: &[u8]) -> String {
    format!("{name} {} {}\n", key_kind(key), STANDARD.encode(key))
}

/// `SHA256:` and base64, as OpenSSH prints fingerprints.
pub(crate) fn fingerprint(sha256: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(sha256))
}

/// The type that the wire form of a key starts with, such as `ssh-ed25519`.
pub(crate) fn key_kind(key: &[u8]) -> &str {
    let name = key.split_first_chunk::<4>().and_then(|(length, rest)| rest.get(..u32::from_be_bytes(*length) as usize));
    name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("unknown")
}

/// RSA keys sign by several algorithms.
fn key_type_of(algorithm: &str) -> &str {
    if algorithm.starts_with("rsa-sha2-") { "ssh-rsa" } else { algorithm }
}

/// Whether a comma-separated list of patterns, some of them negated by `!`, stands for `name`.
fn matches(patterns: &str, name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let hit = |pattern: &str| glob(pattern.to_ascii_lowercase().as_bytes(), name.as_bytes());
    let mut found = false;
    for pattern in patterns.split(',') {
        match pattern.strip_prefix('!') {
            Some(pattern) if hit(pattern) => return false,
            Some(_) => {}
            None => found |= hit(pattern),
        }
    }
    found
}

/// `*` and `?`, in time proportional to the product of the lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str, fill: u8) -> Vec<u8> {
        let mut key = (kind.len() as u32).to_be_bytes().to_vec();
        key.extend_from_slice(kind.as_bytes());
        key.extend_from_slice(&[fill; 32]);
        key
    }

    fn standing(text: &str, name: &str, key: &[u8]) -> Standing {
        read(text, name).standing(key)
    }

    fn read(text: &str, name: &str) -> KnownHost {
        let mut known = KnownHost::default();
        known.read(0, text, name, |field| field == "|1|match");
        known
    }

    fn line(line: usize) -> Place {
        Place { file: 0, line }
    }

    #[test]
    fn known_new_and_changed_are_told_apart_by_line() {
        let (ours, other) = (key("ssh-ed25519", 1), key("ssh-ed25519", 2));
        let file = format!("# hi\n\ngarbage\n{}{}", new_line("h", &other), new_line("[h]:2222", &ours));
        assert_eq!(standing(&file, "[h]:2222", &ours), Standing::Known);
        assert_eq!(standing(&file, "h", &ours), Standing::Changed(line(4)));
        assert_eq!(standing(&file, "other", &ours), Standing::New);
        assert_eq!(standing(&file, "[h]:22222", &ours), Standing::New);
    }

    #[test]
    fn another_type_of_key_is_no_first_contact() {
        let file = new_line("h", &key("ecdsa-sha2-nistp256", 1));
        assert_eq!(standing(&file, "h", &key("ssh-ed25519", 1)), Standing::Changed(line(1)));
        let known = read(&file, "h");
        assert_eq!(known.prefer(&["ssh-ed25519", "ecdsa-sha2-nistp256"]), ["ecdsa-sha2-nistp256", "ssh-ed25519"]);
        let rsa = read(&new_line("h", &key("ssh-rsa", 1)), "h");
        assert_eq!(rsa.prefer(&["ssh-ed25519", "rsa-sha2-512"]), ["rsa-sha2-512", "ssh-ed25519"]);
    }

    #[test]
    fn hashed_names_patterns_and_markers() {
        let ours = key("ssh-ed25519", 1);
        let as_hashed = new_line("|1|match", &ours);
        assert_eq!(standing(&as_hashed, "h", &ours), Standing::Known);
        assert_eq!(standing(&new_line("|1|other", &ours), "h", &ours), Standing::New);
        assert_eq!(standing(&new_line("*.pico.sh,!bad.pico.sh", &ours), "pipe.pico.sh", &ours), Standing::Known);
        assert_eq!(standing(&new_line("*.pico.sh,!bad.pico.sh", &ours), "bad.pico.sh", &ours), Standing::New);
        assert_eq!(standing(&format!("@revoked {}", new_line("*", &ours)), "h", &ours), Standing::Revoked(line(1)));
        assert_eq!(standing(&format!("@cert-authority {}", new_line("*", &ours)), "h", &ours), Standing::New);
    }

    #[test]
    fn globs() {
        for (pattern, text) in [("*", ""), ("a*b", "a--b"), ("a?c", "abc"), ("*a*a*", "xaxa"), ("h", "h")] {
            assert!(glob(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a*b", "a--bc"), ("a?c", "ac"), ("*a*a*", "xax")] {
            assert!(!glob(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }
}
