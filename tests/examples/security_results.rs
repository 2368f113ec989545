//! Puts what the security suites reported last into `docs/threat-model.md`.

fn main() {
    tests::results::publish(&tests::results::tables());
}
