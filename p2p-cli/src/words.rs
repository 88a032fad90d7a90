//! A machine's key in words, for people to compare when they talk: the first 88 bits of the key's BLAKE3 hash, which are the
//! beginning of its fingerprint too, as eight words of BIP-39's English list.
//!
//! Whoever wants a key with the same words has to try some 2^88.

use bip0039::English;
use p2p_proto::ids::MachineKey;

/// How many words.
const WORDS: usize = 8;
/// The list has 2,048 words.
const WORD_BITS: usize = 11;

/// The words of `key`, separated by blanks.
pub fn words(key: &MachineKey) -> String {
    let hash = blake3::hash(&key.0);
    let bit = |at: usize| usize::from(hash.as_bytes()[at / 8] >> (7 - at % 8) & 1);
    let number = |nth: usize| (0..WORD_BITS).fold(0, |number, at| number << 1 | bit(nth * WORD_BITS + at));
    (0..WORDS).map(|nth| English::words()[number(nth)]).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_fingerprints_first_bits() {
        let key = MachineKey([7; 32]);
        let said = words(&key);
        let numbers = said.split(' ').map(|word| English::words().iter().position(|known| *known == word).unwrap());
        let bits: String = numbers.map(|number| format!("{number:011b}")).collect();
        let digits: Vec<String> =
            bits.as_bytes().chunks(4).map(|four| std::str::from_utf8(four).unwrap().to_owned()).collect();
        let hex: String = digits.iter().map(|four| format!("{:x}", u8::from_str_radix(four, 2).unwrap())).collect();
        assert_eq!(hex, key.fingerprint().trim_start_matches("P2P:").replace('-', "")[..22]);
        assert_eq!(said.split(' ').count(), 8);
        assert_ne!(said, words(&MachineKey([8; 32])));
    }
}
