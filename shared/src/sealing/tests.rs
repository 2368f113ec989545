use super::*;

const TEXT: &[u8] = br#"{"secrets":{"TOKEN":"hunter2"}}"#;

fn keys() -> SecretsKeys {
    SecretsKeys::parse(&SecretsKeys::generate().unwrap()).unwrap()
}

fn payload(tenant: &TenantId, owner: Owner) -> Place<'_> {
    Place { tenant, owner, purpose: Purpose::Payload }
}

fn job() -> Owner {
    Owner::Job(JobId::generate())
}

#[test]
fn what_was_sealed_is_opened_in_its_place_alone() {
    let (keys, acme, owner) = (keys(), TenantId::new("acme"), job());
    let place = payload(&acme, owner);
    let sealed = keys.seal(place, TEXT).unwrap();
    assert!(is_sealed(&sealed) && !is_sealed(TEXT));
    assert_eq!(sealed.len(), TEXT.len() + TEXT_AT + TAG_BYTES);
    assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
    assert_eq!(keys.open(place, &mut sealed.clone()).unwrap(), TEXT);
    assert_ne!(keys.seal(place, TEXT).unwrap(), sealed, "never the same twice");

    let other = TenantId::new("other");
    for elsewhere in [
        payload(&other, owner),
        payload(&acme, job()),
        payload(&acme, Owner::Batch(BatchId::generate())),
        Place { purpose: Purpose::Webhook, ..place },
        Place { purpose: Purpose::Items { first: 0, base: b"" }, ..place },
    ] {
        let refused = keys.open(elsewhere, &mut sealed.clone()).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::SecretsUnreadable, "{elsewhere:?}");
    }
}

#[test]
fn no_bit_of_it_can_be_changed() {
    let (keys, acme) = (keys(), TenantId::new("acme"));
    let place = payload(&acme, job());
    let sealed = keys.seal(place, TEXT).unwrap();
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        let refused = keys.open(place, &mut changed).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::SecretsUnreadable, "byte {at}");
    }
    for length in 0..sealed.len() {
        assert!(keys.open(place, &mut sealed[..length].to_vec()).is_err(), "{length} bytes");
    }
}

#[test]
fn a_schedules_jobs_have_what_it_had_sealed() {
    let (keys, acme) = (keys(), TenantId::new("acme"));
    let sealed = keys.seal(payload(&acme, Owner::Schedule(ScheduleId::generate())), TEXT).unwrap();
    assert_eq!(keys.open(payload(&acme, job()), &mut sealed.clone()).unwrap(), TEXT);
    let other = TenantId::new("other");
    keys.open(payload(&other, job()), &mut sealed.clone()).unwrap_err();
}

#[test]
fn items_belong_to_their_number_and_their_base() {
    let (keys, acme) = (keys(), TenantId::new("acme"));
    let owner = Owner::Batch(BatchId::generate());
    let place =
        |first, base| Place { tenant: &acme, owner, purpose: Purpose::Items { first, base } };
    let sealed = keys.seal(place(512, b"digest"), TEXT).unwrap();
    assert_eq!(keys.open(place(512, b"digest"), &mut sealed.clone()).unwrap(), TEXT);
    keys.open(place(0, b"digest"), &mut sealed.clone()).unwrap_err();
    keys.open(place(512, b"another"), &mut sealed.clone()).unwrap_err();
}

#[test]
fn keys_are_replaced_one_after_the_other() {
    let (old, new) = (SecretsKeys::generate().unwrap(), SecretsKeys::generate().unwrap());
    let acme = TenantId::new("acme");
    let place = payload(&acme, job());
    let before = SecretsKeys::parse(&old).unwrap();
    let sealed = before.seal(place, TEXT).unwrap();
    let both = SecretsKeys::parse(&format!("# new\n{new}\n\n{old}\n")).unwrap();
    assert_eq!(both.open(place, &mut sealed.clone()).unwrap(), TEXT);

    let after = SecretsKeys::parse(&new).unwrap();
    let refused = after.open(place, &mut sealed.clone()).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SecretsUnreadable);
    let name = before.names().next().unwrap();
    assert!(refused.message().contains(&name), "{refused}");
    let of_both = both.seal(place, TEXT).unwrap();
    assert_eq!(after.open(place, &mut of_both.clone()).unwrap(), TEXT, "the first one seals");
}

#[test]
fn what_is_no_key_is_refused_without_repeating_it() {
    let good = SecretsKeys::generate().unwrap();
    for (text, words) in [
        (String::new(), "0 keys"),
        ("c2hvcnQ=".into(), "line 1 is no key"),
        (format!("{good}\nnot base64 at all"), "line 2 is no key"),
        (format!("{good}\n{good}"), "line 2 repeats a key"),
    ] {
        let error = SecretsKeys::parse(&text).unwrap_err();
        assert!(error.message().contains(words), "{error}");
        assert!(!error.message().contains(&good), "{error}");
    }
    let shown = format!("{:?}", SecretsKeys::parse(&good).unwrap());
    assert!(!shown.contains(&good[..8]), "{shown}");
}
