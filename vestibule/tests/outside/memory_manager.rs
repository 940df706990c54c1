//! The secrets manager in memory, as the tests of a service use it.

use crate::{SENTINEL, good_secrets, start};
use std::time::Duration;
use vestibule::{
    exit::Exit,
    secrets::{ExposeSecret, Fetched, SecretId, Source, SourceError, Stage, VersionId, Versions},
    testing::MemoryManager,
};

fn id() -> SecretId {
    SecretId::parse("api").expect("an id")
}

/// Returns the version and the value at a stage. An empty text stands for none.
async fn at(manager: &MemoryManager, stage: Stage) -> String {
    match manager.fetch(&id(), stage, None).await.expect("an answer") {
        Fetched::New(value) => format!("{} {}", value.version, value.text.expose_secret()),
        Fetched::Same => panic!("nothing is held"),
        Fetched::Absent => String::new(),
    }
}

async fn at_all_stages(manager: &MemoryManager) -> [String; 3] {
    [at(manager, Stage::Current).await, at(manager, Stage::Pending).await, at(manager, Stage::Previous).await]
}

#[tokio::test]
async fn each_stage_has_the_version_that_was_put_rotated_or_moved_there() {
    let manager = MemoryManager::with([("api", "one")]);
    let two = manager.put_at("api", Stage::Pending, "two");
    assert_eq!(at_all_stages(&manager).await, ["v1 one", "v2 two", ""]);
    manager.move_label("api", Stage::Current, &two);
    manager.remove_label("api", Stage::Pending);
    assert_eq!(at_all_stages(&manager).await, ["v2 two", "", "v1 one"]);
    manager.move_label("api", Stage::Current, &two);
    assert_eq!(at_all_stages(&manager).await, ["v2 two", "", "v1 one"], "it has the label already");
    let three = manager.rotate("api", "three".to_owned());
    assert_eq!(at_all_stages(&manager).await, ["v3 three", "", "v2 two"]);
    let listed = manager.versions(&id()).await.unwrap();
    assert_eq!(listed, Versions::from([(Stage::Current, three.clone()), (Stage::Previous, two)]));
    assert!(matches!(manager.fetch(&id(), Stage::Current, Some(&three)).await, Ok(Fetched::Same)));
    manager.put("api", "four");
    assert_eq!(at_all_stages(&manager).await, ["v4 four", "", "v2 two"]);
    let shown = format!("{manager:?}");
    assert!(shown.contains("v4") && !shown.contains("four"), "{shown}");
    manager.remove("api");
    assert_eq!(at_all_stages(&manager).await, ["", "", ""]);
    assert!(manager.versions(&id()).await.unwrap().is_empty());
}

#[test]
#[should_panic = "the secret api has no version v7"]
fn a_label_is_not_moved_to_a_version_that_does_not_exist() {
    MemoryManager::with([("api", "one")]).move_label("api", Stage::Current, &VersionId::new("v7"));
}

#[tokio::test]
async fn a_version_has_the_creation_time_that_a_test_gives_it() {
    let manager = MemoryManager::with([("api", "one")]);
    let created = async || match manager.fetch(&id(), Stage::Current, None).await {
        Ok(Fetched::New(value)) => value.created,
        _ => panic!("it is there"),
    };
    assert!(created().await.is_some());
    let at = time::OffsetDateTime::UNIX_EPOCH;
    manager.set_creation_time("api", Stage::Current, at);
    assert_eq!(created().await, Some(at));
    manager.set_creation_time("api", Stage::Current, None);
    assert_eq!(created().await, None);
}

#[tokio::test]
async fn answers_fail_as_often_as_a_test_wants_and_take_as_long() {
    let manager = good_secrets();
    manager.fail_next("api", 1, SourceError::Unavailable("it restarts".into()));
    start(manager.clone()).await.expect("a transient error is retried");
    manager.fail_next("api", usize::MAX, SourceError::Denied("no".into()));
    let report = start(manager.clone()).await.unwrap_err();
    assert_eq!((report.exit(), report.faults().len()), (Exit::Denied, 1));
    assert_eq!(manager.versions(&id()).await, Err(SourceError::Denied("no".into())));
    manager.fail_next("api", 0, SourceError::Denied("no".into()));
    assert_eq!(at(&manager, Stage::Current).await, format!("v1 {SENTINEL}"));

    manager.delay(Duration::from_secs(60 * 60));
    let answer = tokio::time::timeout(Duration::from_millis(20), at(&manager, Stage::Current)).await;
    assert!(answer.is_err(), "it takes an hour");
    manager.delay(Duration::ZERO);
    at(&manager, Stage::Current).await;
}
