//! Nodes, their numbers, tokens and leases (METHOD M2).

use std::collections::BTreeSet;
use std::fs;

use interlock_control_plane::{Config, ControlPlane, StartError};
use interlock_rpc::status::{Reason, invalid_fields, reason_of};
use interlock_rpc::v1;
use tonic::Code;

use super::{Fixture, config, registration, within};

/// METHOD M2: numbers belong to names for good, and tokens rise, also over
/// restarts of the control-plane.
#[tokio::test]
async fn numbers_and_tokens_survive_a_restart() {
    let mut fixture = Fixture::start().await;
    let first = fixture.register("eu-1", "eu").await;
    let second = fixture.register("us-1", "us").await;
    assert_eq!((first.number, first.fencing_token), (1, 1));
    assert_eq!((second.number, second.fencing_token), (2, 1));
    assert_eq!(first.lease_milliseconds, 10_000);
    let before = fixture.get_topology().await;
    assert_eq!(before.regions.len(), 2, "regions are made by the first of their nodes");

    fixture.restart().await;
    assert_eq!(fixture.get_topology().await, before);
    let again = fixture.register("eu-1", "eu").await;
    assert_eq!((again.number, again.fencing_token), (1, 2));
    let again = fixture.register("us-1", "us").await;
    assert_eq!((again.number, again.fencing_token), (2, 2));
    let third = fixture.register("eu-2", "eu").await;
    assert_eq!((third.number, third.fencing_token), (3, 1));
    let version = third.topology.expect("is in every answer").version.expect("has one");
    assert_eq!((version.generation, version.number), (1, 5));
}

/// Registrations at the same time get different numbers, and none is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_at_once_get_numbers_of_their_own() {
    let mut fixture = Fixture::start().await;
    let requests = (0..32).map(|index| {
        let mut client = fixture.topology();
        tokio::spawn(async move {
            let request = registration(&format!("node-{index}"), "eu");
            client.register_node(request).await.expect("registers").into_inner().number
        })
    });
    let mut numbers = BTreeSet::new();
    for request in requests.collect::<Vec<_>>() {
        assert!(numbers.insert(within(request).await.expect("does not panic")));
    }
    assert_eq!(numbers, (1..=32).collect());
    fixture.restart().await;
    let held: BTreeSet<u32> =
        fixture.get_topology().await.nodes.iter().map(|it| it.number).collect();
    assert_eq!(held, numbers);
}

#[tokio::test]
async fn an_expired_lease_is_shown_and_a_renewal_ends_that() {
    let fixture = Fixture::start_with_lease(1).await;
    let registered = fixture.register("eu-1", "eu").await;
    let renewal = v1::RenewLeaseRequest {
        number: registered.number,
        fencing_token: registered.fencing_token,
        incarnation: 8,
        topology_version: None,
    };
    let nodes = fixture.nodes().await;
    assert_eq!(nodes[0].liveness(), v1::Liveness::Alive);
    assert_eq!(nodes[0].incarnation, 7);

    let expired = within(async {
        loop {
            let nodes = fixture.nodes().await;
            if nodes[0].liveness() == v1::Liveness::LeaseExpired {
                return nodes;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(expired[0].last_seen_milliseconds >= 1000);

    let renewed = fixture.topology().renew_lease(renewal).await.expect("renewed").into_inner();
    assert_eq!(renewed.fencing_token, registered.fencing_token);
    assert_eq!(renewed.lease_milliseconds, 1000);
    assert_eq!(renewed.topology_version, registered.topology.and_then(|it| it.version));
    let nodes = fixture.nodes().await;
    assert_eq!(nodes[0].liveness(), v1::Liveness::Alive);
    assert_eq!(nodes[0].incarnation, 8);
}

#[tokio::test]
async fn a_restarted_control_plane_has_not_seen_anyone_yet() {
    let mut fixture = Fixture::start().await;
    fixture.register("eu-1", "eu").await;
    fixture.restart().await;
    assert_eq!(fixture.nodes().await[0].liveness(), v1::Liveness::NeverSeen);
}

/// A process that another of its name has replaced learns of the higher token,
/// and keeps nobody alive.
#[tokio::test]
async fn a_stale_token_learns_of_the_higher_one() {
    let mut fixture = Fixture::start().await;
    let first = fixture.register("eu-1", "eu").await;
    fixture.register("eu-1", "eu").await;
    fixture.restart().await;

    let renew = |number, fencing_token| {
        let mut client = fixture.topology();
        async move {
            let request = v1::RenewLeaseRequest {
                number,
                fencing_token,
                incarnation: 7,
                topology_version: None,
            };
            client.renew_lease(request).await
        }
    };
    let renewed = renew(first.number, 1).await.expect("is told").into_inner();
    assert_eq!(renewed.fencing_token, 2);
    assert_eq!(fixture.nodes().await[0].liveness(), v1::Liveness::NeverSeen, "nothing is renewed");

    let unknown = renew(99, 1).await.expect_err("never registered");
    assert_eq!((unknown.code(), reason_of(&unknown)), (Code::NotFound, Some(Reason::UnknownNode)));
    let invented = renew(first.number, 3).await.expect_err("never given");
    assert_eq!(reason_of(&invented), Some(Reason::TopologyBehind));
    // Who was given it has a document that is lost here.
    let status = fixture.try_register(registration("eu-1", "eu")).await;
    let status = status.expect_err("a token would be given out twice");
    assert_eq!(reason_of(&status), Some(Reason::TopologyBehind), "{status}");
    assert!(status.message().contains("fencing token 3"), "{status}");
}

#[tokio::test]
async fn bad_registrations_name_the_field() {
    let fixture = Fixture::start().await;
    fixture.register("eu-1", "eu").await;
    let before = fixture.get_topology().await;
    let good = || registration("eu-2", "eu");
    let cases = [
        (v1::RegisterNodeRequest { name: "EU".into(), ..good() }, Code::InvalidArgument, "name"),
        (v1::RegisterNodeRequest { name: String::new(), ..good() }, Code::InvalidArgument, "name"),
        (
            v1::RegisterNodeRequest { region: "x".repeat(64), ..good() },
            Code::InvalidArgument,
            "region",
        ),
        (
            v1::RegisterNodeRequest { replication_address: "here".into(), ..good() },
            Code::InvalidArgument,
            "replication_address",
        ),
        (
            v1::RegisterNodeRequest { client_address: String::new(), ..good() },
            Code::InvalidArgument,
            "client_address",
        ),
        (registration("eu-1", "us"), Code::FailedPrecondition, "region"),
    ];
    for (request, code, field) in cases {
        let status = fixture.try_register(request).await.expect_err(field);
        assert_eq!(status.code(), code, "{status:?}");
        let fields = invalid_fields(&status);
        assert_eq!(fields.iter().map(|it| it.field.as_str()).collect::<Vec<_>>(), [field]);
        assert!(reason_of(&status).is_some());
    }
    assert_eq!(fixture.get_topology().await, before, "nothing was changed");
}

/// A control-plane whose data was lost gives out no number a second time.
#[tokio::test]
async fn a_node_that_knows_more_stops_all_edits() {
    let fixture = Fixture::start().await;
    fixture.register("eu-1", "eu").await;
    let newer = v1::TopologyVersion { generation: 1, number: 9 };
    let request =
        v1::RegisterNodeRequest { topology_version: Some(newer), ..registration("us-1", "us") };
    let status = fixture.try_register(request).await.expect_err("it has lost something");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason_of(&status), Some(Reason::TopologyBehind));
    assert!(status.message().contains("1.9"), "{}", status.message());

    let status = fixture.try_register(registration("eu-2", "eu")).await.expect_err("nor anyone");
    assert_eq!(reason_of(&status), Some(Reason::TopologyBehind));
    assert_eq!(fixture.get_topology().await.nodes.len(), 1);
}

/// Nodes that stay connected over a restart do not register again: what they know
/// comes with their renewals and with their watch of the topology.
#[tokio::test]
async fn connected_nodes_tell_of_a_newer_topology() {
    for by_renewal in [true, false] {
        let fixture = Fixture::start().await;
        let node = fixture.register("eu-1", "eu").await;
        fixture.apply_group("europe", &["eu"]).await;
        fixture.create_namespace("first", &["europe"]).await.expect("nothing is lost");
        let newer = Some(v1::TopologyVersion { generation: 1, number: 9 });
        if by_renewal {
            let request = v1::RenewLeaseRequest {
                number: node.number,
                fencing_token: node.fencing_token,
                incarnation: 7,
                topology_version: newer,
            };
            fixture.topology().renew_lease(request).await.expect("it is alive all the same");
        } else {
            let request = v1::WatchTopologyRequest { known: newer };
            fixture.topology().watch_topology(request).await.expect("it may watch");
        }
        let status = fixture.create_namespace("second", &["europe"]).await;
        let status = status.expect_err("its number was given to another");
        assert_eq!(reason_of(&status), Some(Reason::TopologyBehind), "{status}");
        assert!(status.message().contains("1.9"), "{status}");
        assert_eq!(fixture.get_topology().await.namespaces.len(), 1);
    }
}

/// After a start any node may know more: nothing is edited before each was heard,
/// or an operator vouches for the data.
#[tokio::test]
async fn a_restarted_control_plane_hears_all_nodes_before_it_edits() {
    let mut fixture = Fixture::start().await;
    let nodes = [fixture.register("eu-1", "eu").await, fixture.register("us-1", "us").await];
    fixture.apply_group("both", &["eu", "us"]).await;
    fixture.restart().await;
    fixture.apply_group("both", &["eu", "us"]).await;
    let renew = async |fixture: &Fixture, node: &v1::RegisterNodeResponse| {
        let request = v1::RenewLeaseRequest {
            number: node.number,
            fencing_token: node.fencing_token,
            incarnation: 7,
            topology_version: None,
        };
        fixture.topology().renew_lease(request).await.expect("it is on record");
    };
    renew(&fixture, &nodes[0]).await;
    let status = fixture.create_namespace("news", &["both"]).await;
    let status = status.expect_err("us-1 was not heard");
    assert_eq!(reason_of(&status), Some(Reason::TopologyBehind), "{status}");
    assert!(status.message().contains("us-1") && !status.message().contains("eu-1"), "{status}");
    let status = fixture.try_register(registration("new-1", "eu")).await;
    let status = status.expect_err("it would get a number");
    assert_eq!(reason_of(&status), Some(Reason::TopologyBehind), "{status}");
    fixture.register("eu-1", "eu").await;

    // An edit that is under way when the last of them is heard goes on.
    let (created, ()) =
        tokio::join!(fixture.create_namespace("news", &["both"]), renew(&fixture, &nodes[1]));
    assert_eq!(created.expect("all were heard").number, 1);

    fixture.stop().await;
    let config = Config { topology_confirmed: true, ..config(&fixture.folder) };
    fixture.start_again(config).await;
    fixture.create_namespace("more", &["both"]).await.expect("the operator vouches for it");
}

#[tokio::test]
async fn a_damaged_topology_is_refused_at_the_start() {
    let mut fixture = Fixture::start().await;
    fixture.register("eu-1", "eu").await;
    fixture.register("eu-2", "eu").await;
    fixture.stop().await;

    let path = config(&fixture.folder).data_dir.join("topology.document");
    let mut bytes = fs::read(&path).expect("it is there");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).expect("it can be written");
    let error = ControlPlane::start(config(&fixture.folder)).await.expect_err("damage is refused");
    assert!(matches!(error, StartError::Store(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("topology.document") && text.contains("topology.previous"), "{text}");
    assert_eq!(fs::read(&path).expect("it is there"), bytes, "nothing was touched");
}

/// What a kill leaves of a commit that was not finished is as if it had not begun.
#[tokio::test]
async fn a_commit_that_was_cut_short_is_not_there() {
    let mut fixture = Fixture::start().await;
    fixture.register("eu-1", "eu").await;
    let before = fixture.get_topology().await;
    fixture.stop().await;
    let folder = config(&fixture.folder).data_dir;
    let whole = fs::read(folder.join("topology.document")).expect("it is there");
    fs::write(folder.join("topology.temporary"), &whole[..whole.len() / 2]).expect("is written");

    fixture.restart().await;
    assert_eq!(fixture.get_topology().await, before);
    fixture.register("eu-1", "eu").await;
    assert_eq!(fixture.register("eu-2", "eu").await.number, 2);
}
