//! What a private key file shows without its passphrase: whether it needs one, and which public key it belongs to.
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const OPENSSH_BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const OPENSSH_END: &str = "-----END OPENSSH PRIVATE KEY-----";
const OPENSSH_MAGIC: &[u8] = b"openssh-key-v1\0";

/// A key file larger than this is none, bytes.
const KEY_FILE_BYTES: u64 = 64 * 1024;

/// What is in a key file.
///
/// # Errors
/// The system's.
pub(crate) fn text(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(KEY_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The outside of a key file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeyFile {
    /// A passphrase is needed.
    pub(crate) encrypted: bool,
    /// It holds a private key; a `.pub` file does not.
    pub(crate) private: bool,
    /// The public key in wire form, where the file shows it.
    pub(crate) public: Option<Vec<u8>>,
}

impl KeyFile {
    /// It is of use only together with the device that made it (FIDO).
    pub(crate) fn needs_a_device(&self) -> bool {
        let kind = self.public.as_deref().map(crate::known_hosts::key_kind);
        self.private && kind.is_some_and(|kind| kind.starts_with("sk-"))
    }

    /// Reads OpenSSH's format, PEM, or a line of public key. `None` for anything else.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(body) = text.strip_prefix(OPENSSH_BEGIN) {
            let body: String = body.strip_suffix(OPENSSH_END)?.split_whitespace().collect();
            let bytes = STANDARD.decode(body).ok()?;
            let mut rest = bytes.strip_prefix(OPENSSH_MAGIC)?;
            let cipher = take_string(&mut rest)?;
            let (_kdf, _options) = (take_string(&mut rest)?, take_string(&mut rest)?);
            let (_count, after) = rest.split_first_chunk::<4>()?;
            rest = after;
            let public = take_string(&mut rest)?;
            return Some(Self { encrypted: cipher != b"none", private: true, public: Some(public.to_vec()) });
        }
        if text.starts_with("-----BEGIN ") && text.contains("PRIVATE KEY-----") {
            let encrypted = text.contains("BEGIN ENCRYPTED") || text.contains("Proc-Type: 4,ENCRYPTED");
            return Some(Self { encrypted, private: true, public: None });
        }
        let mut words = text.split_whitespace();
        let (kind, key) = (words.next()?, STANDARD.decode(words.next()?).ok()?);
        let whole = crate::known_hosts::key_kind(&key) == kind;
        whole.then_some(Self { encrypted: false, private: false, public: Some(key) })
    }
}

fn take_string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (string, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *bytes = rest;
    Some(string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_security_keys_file_is_told_from_others() {
        for (kind, device) in [("sk-ssh-ed25519@openssh.com", true), ("ssh-ed25519", false)] {
            let public = [&(kind.len() as u32).to_be_bytes(), kind.as_bytes(), &[0, 0, 0, 1, 7]].concat();
            assert_eq!(KeyFile::read(&openssh(b"none", &public)).unwrap().needs_a_device(), device, "{kind}");
            // Which of them an agent is to use may be named by a public file; then the agent sees to the device.
            let line = format!("{kind} {}", STANDARD.encode(&public));
            assert!(!KeyFile::read(&line).unwrap().needs_a_device());
        }
    }

    fn openssh(cipher: &[u8], public: &[u8]) -> String {
        let mut bytes = OPENSSH_MAGIC.to_vec();
        for part in [cipher, b"bcrypt", b""] {
            bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&1u32.to_be_bytes());
        bytes.extend_from_slice(&(public.len() as u32).to_be_bytes());
        bytes.extend_from_slice(public);
        format!("{OPENSSH_BEGIN}\n{}\n{OPENSSH_END}\n", STANDARD.encode(bytes))
    }

    #[test]
    fn encryption_and_public_key_show_from_outside() {
        let plain = KeyFile::read(&openssh(b"none", b"public")).unwrap();
        assert_eq!(plain, KeyFile { encrypted: false, private: true, public: Some(b"public".to_vec()) });
        assert!(KeyFile::read(&openssh(b"aes256-ctr", b"public")).unwrap().encrypted);
        let pem = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nabc\n-----END RSA PRIVATE KEY-----";
        assert!(KeyFile::read(pem).unwrap().encrypted);
        assert!(!KeyFile::read("-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----").unwrap().encrypted);
    }

    #[test]
    fn public_halves_and_noise() {
        let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS me@here";
        let half = KeyFile::read(line).unwrap();
        assert!(!half.private && half.public.is_some());
        let cut = &openssh(b"none", b"public")[..60];
        for bad in ["", "hello", "ssh-rsa AAAAC3NzaC1lZDI1NTE5", cut, "-----BEGIN CERTIFICATE-----"] {
            assert_eq!(KeyFile::read(bad), None, "{bad:?} was accepted");
        }
    }
}
