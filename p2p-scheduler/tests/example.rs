//! The example does what it says.

#[path = "../examples/embed.rs"]
mod embed;

#[test]
fn both_halves_of_the_example_count_the_same_primes() {
    embed::main().unwrap();
}
