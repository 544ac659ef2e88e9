//! What is planted, and how it is found again.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Characters that have a meaning in addresses, so that what cuts or encodes a secret in a wrong
/// place is caught, too.
const ODD: &str = "c4n/:?#@%&=";
/// The characters of a canary's random part.
const CORE_CHARS: usize = 24;
/// So much of a secret is not told either.
const PART_CHARS: usize = 12;

/// Secrets that nobody may tell.
#[derive(Default)]
pub struct Canaries {
    /// How a secret looks when it is told, and which one it is.
    forms: Vec<(Vec<u8>, String)>,
    /// The first two bytes of all forms: text is long, and most of it begins none.
    heads: BTreeSet<[u8; 2]>,
}

impl Canaries {
    /// A new secret, which looks harmless to whoever must take it as it is.
    pub fn plain(&mut self, what: &str) -> String {
        let core: String = (0..CORE_CHARS)
            .map(|_| char::from(rand::random_range(b'A'..=b'Z')))
            .collect();
        self.add(what, &core);
        core
    }

    /// A new secret that has to be encoded in an address.
    pub fn odd(&mut self, what: &str) -> String {
        format!("{ODD}{}", self.plain(what))
    }

    /// A secret that somebody else has made.
    pub fn add(&mut self, what: &str, secret: &str) {
        self.add_form(what, &secret.as_bytes()[..PART_CHARS.min(secret.len())]);
        self.add_bytes(what, secret.as_bytes());
    }

    /// A secret that is no text, in all forms that it would be told in.
    pub fn add_bytes(&mut self, what: &str, bytes: &[u8]) {
        let list = format!("{bytes:?}");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // What is encoded with more before it begins elsewhere.
        let base64 = (0..3).map(|cut| STANDARD_NO_PAD.encode(&bytes[cut..]));
        let part = |form: &str, chars: usize| form.as_bytes()[..chars.min(form.len())].to_vec();
        let mut forms = vec![part(&list[1..], 4 * PART_CHARS), part(&hex, 2 * PART_CHARS)];
        forms.extend(base64.map(|form| part(&form, PART_CHARS)));
        for form in forms {
            self.add_form(what, &form);
        }
    }

    fn add_form(&mut self, what: &str, form: &[u8]) {
        self.heads.insert([form[0], form[1]]);
        self.forms.push((form.to_vec(), what.to_owned()));
    }

    /// Which of them a text tells, with what stands around them.
    pub fn found_in(&self, text: &[u8]) -> Vec<String> {
        let mut heads = vec![false; 1 << 16];
        for head in &self.heads {
            heads[usize::from(u16::from_be_bytes(*head))] = true;
        }
        let starts = text.windows(2).enumerate().filter(|(_, two)| {
            let head = u16::from_be_bytes([two[0], two[1]]);
            heads[usize::from(head)]
        });
        let mut found = Vec::new();
        for (at, _) in starts {
            for (form, what) in &self.forms {
                if text[at..].starts_with(form) {
                    let around = &text[at.saturating_sub(200)..text.len().min(at + 60)];
                    let around = String::from_utf8_lossy(around);
                    found.push(format!("{what} in …{around}…"));
                }
            }
        }
        found
    }
}

#[test]
fn a_secret_is_found_in_every_dress() {
    let mut canaries = Canaries::default();
    let secret = canaries.odd("a password");
    canaries.odd("another one");
    let core = secret.strip_prefix(ODD).unwrap();
    let hex: String = core.bytes().map(|byte| format!("{byte:02x}")).collect();
    for told in [
        format!("user:{secret}@host"),
        format!("{:?}", secret.as_bytes()),
        hex,
        STANDARD_NO_PAD.encode(core),
        STANDARD_NO_PAD.encode(format!("u:{secret}")),
        STANDARD_NO_PAD.encode(format!("us:{secret}")),
        core[..PART_CHARS].to_owned(),
    ] {
        let found = canaries.found_in(format!("before {told} after").as_bytes());
        assert_eq!(found.len(), 1, "{told}: {found:?}");
        assert!(found[0].starts_with("a password in"), "{found:?}");
    }
    assert!(canaries.found_in(b"nothing").is_empty());
}
