//! A node's disk is put back to an old copy.

use std::collections::BTreeSet;

use interlock_client::{Durability, Start};
use interlock_rpc::v1;

use crate::support::{REGIONS, World, assert_all, copy_folder, numbered, publish};

/// METHOD M12 and promise I1, I3, I10, node restored from an old copy: what was
/// published after the copy and what is published after it was put back are two
/// branches of one origin. Both reach everyone; nothing that was acknowledged is
/// missing anywhere, and every subscriber, attached all the time or coming back
/// with an old cursor at any region, gets everything exactly once.
async fn restore_an_old_copy(peers_within_reach: bool) {
    let mut world = World::start().await;
    world.create("europe", "news").await;
    let mut attached = Vec::new();
    for region in REGIONS {
        let mut reader = world.reader(region, &["news"], Start::Now);
        reader.until_caught_up().await;
        attached.push(reader);
    }
    let before = numbered("before", 0..10);
    world.publish_all("europe", "news", &before).await;
    world.publish("asia", "news", "asia's own").await;
    world.until_same().await;
    let mut cursors = Vec::new();
    for region in REGIONS {
        let history = world.history(region, &["news"], Start::Oldest).await;
        cursors.push((format!("{region} before"), history.cursor.clone(), history.texts()));
    }

    world.abort("europe").await;
    let copy = world.folder.path().join("copy");
    copy_folder(&world.mesh.node_folder("europe"), &copy);
    world.restart("europe").await;
    let lost = numbered("lost at home", 0..10);
    for text in &lost {
        let request = v1::PublishRequest {
            durability: Some(Durability::Peers(1).to_wire()),
            ..publish("news", text.clone())
        };
        world.publishing("europe").publish(request).await.expect("peers are there");
    }
    world.until_same().await;
    for region in REGIONS {
        let history = world.history(region, &["news"], Start::Oldest).await;
        cursors.push((format!("{region} between"), history.cursor.clone(), history.texts()));
    }

    world.abort("europe").await;
    let home = world.mesh.node_folder("europe");
    std::fs::remove_dir_all(&home).expect("it is a folder");
    copy_folder(&copy, &home);
    if !peers_within_reach {
        world.abort("america").await;
        world.abort("asia").await;
    }
    world.restart("europe").await;
    let branch = numbered("new branch", 0..10);
    world.publish_all("europe", "news", &branch).await;
    if !peers_within_reach {
        world.restart("america").await;
        world.restart("asia").await;
    }
    world.publish("america", "news", "america's own").await;
    let held = world.until_same().await;
    let europe = world.status("europe").await.expect("it serves").member.expect("it says");
    let of_europe =
        held.logs.iter().filter_map(|mark| mark.log).filter(|log| log.origin == europe.node);
    let incarnations: BTreeSet<u64> = of_europe.map(|log| log.incarnation).collect();
    assert!(incarnations.len() >= 3, "the start, and two branches from it: {incarnations:?}");

    let mut all = [before, lost, branch].concat();
    all.extend(["asia's own".to_owned(), "america's own".to_owned()]);
    for region in REGIONS {
        let history = world.history(region, &["news"], Start::Oldest).await;
        assert_all(region, &history.texts(), &all);
        let names: BTreeSet<_> = history
            .messages
            .iter()
            .filter_map(|message| message.message)
            .map(|name| (name.origin, name.incarnation, name.m_id))
            .collect();
        assert_eq!(names.len(), all.len(), "one content a name");
        for (taken, cursor, had) in &cursors {
            let rest = world.history(region, &["news"], Start::Cursor(cursor.clone())).await;
            let together = [had.clone(), rest.texts()].concat();
            assert_all(&format!("{taken} at {region}"), &together, &all);
            assert_eq!(rest.gaps, 0, "{taken} at {region}");
        }
        let status = world.status(region).await.expect("it serves");
        assert!(status.alarms.is_empty(), "{region}: {:?}", status.alarms);
    }
    for (region, reader) in REGIONS.iter().zip(&mut attached) {
        world.close_off("news", reader, &REGIONS).await;
        assert_all(region, &reader.texts(), &all);
        assert!(reader.gaps.is_empty(), "{region}: {:?}", reader.gaps);
    }
    world.end().await;
}

/// See [`restore_an_old_copy`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_is_put_back_with_its_peers_within_reach() {
    restore_an_old_copy(true).await;
}

/// See [`restore_an_old_copy`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_is_put_back_with_no_peer_within_reach() {
    restore_an_old_copy(false).await;
}
