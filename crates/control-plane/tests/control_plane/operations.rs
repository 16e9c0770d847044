//! Operations on channels, delivered to a region (METHOD M2).

use std::sync::atomic::Ordering;

use interlock_rpc::channel::EndpointConfig;
use interlock_rpc::health::check;
use interlock_rpc::status::{Reason, invalid_fields, reason_of};
use interlock_rpc::v1::execute_channel_operation_request::Operation;
use interlock_rpc::v1::{self, OperationOutcome};
use tonic::{Code, Request, Status};

use super::fake_push_node::{Behaviour, FakePushNode, start_mute};
use super::{Fixture, registration, within};

impl Fixture {
    async fn register_at(&self, name: &str, region: &str, client_address: String) {
        let request = v1::RegisterNodeRequest { client_address, ..registration(name, region) };
        self.try_register(request).await.expect("registers");
    }

    async fn execute(
        &self,
        region: &str,
        operation: Operation,
    ) -> Result<v1::ExecuteChannelOperationResponse, Status> {
        let request = v1::ExecuteChannelOperationRequest {
            region: region.to_owned(),
            operation: Some(operation),
        };
        let executed = within(async { self.operations().execute_channel_operation(request).await });
        Ok(executed.await?.into_inner())
    }

    async fn list_operations(
        &self,
        request: v1::ListOperationsRequest,
    ) -> v1::ListOperationsResponse {
        self.operations().list_operations(request).await.expect("is listed").into_inner()
    }
}

fn create() -> Operation {
    Operation::Create(v1::CreateChannelRequest {
        namespace: "news".to_owned(),
        channel: "front/page".to_owned(),
        ..v1::CreateChannelRequest::default()
    })
}

fn record(response: &v1::ExecuteChannelOperationResponse) -> &v1::OperationRecord {
    response.record.as_ref().expect("is in every answer")
}

/// METHOD M2: the control-plane delivers a channel's operation to a push-node of
/// the region that is named, and records what became of it.
#[tokio::test]
async fn operations_reach_their_region_and_are_recorded() {
    let mut fixture = Fixture::start().await;
    let (eu, us) =
        (FakePushNode::start(Behaviour::Obey).await, FakePushNode::start(Behaviour::Obey).await);
    fixture.register_at("eu-1", "eu", eu.address()).await;
    fixture.register_at("us-1", "us", us.address()).await;

    let operations = [
        ("create", create()),
        (
            "update",
            Operation::Update(v1::UpdateChannelRequest {
                namespace: "news".to_owned(),
                channel: "front/page".to_owned(),
                ..v1::UpdateChannelRequest::default()
            }),
        ),
        (
            "refresh",
            Operation::Refresh(v1::RefreshChannelContentRequest {
                namespace: "news".to_owned(),
                channel: "front/page".to_owned(),
                durability: None,
            }),
        ),
        (
            "delete",
            Operation::Delete(v1::DeleteChannelRequest {
                namespace: "news".to_owned(),
                channel: "front/page".to_owned(),
                ..v1::DeleteChannelRequest::default()
            }),
        ),
    ];
    for (action, operation) in operations {
        let response = fixture.execute("us", operation).await.expect("executed");
        let record = record(&response);
        assert_eq!(record.outcome(), OperationOutcome::Done, "{record:?}");
        assert_eq!((record.region.as_str(), record.node.as_str()), ("us", "us-1"));
        assert_eq!(record.action, action);
        assert_eq!((record.namespace.as_str(), record.channel.as_str()), ("news", "front/page"));
        assert!(record.started_at > 0 && record.finished_at >= record.started_at);
        let channel = response.channel.map(|channel| channel.name);
        assert_eq!(channel.is_some(), action != "delete");
    }
    assert_eq!((eu.calls(), us.calls()), (0, 4));

    fixture.restart().await;
    let page =
        |page_token| v1::ListOperationsRequest { page_size: 3, page_token, region: String::new() };
    let first = fixture.list_operations(page(String::new())).await;
    let second = fixture.list_operations(page(first.next_page_token.clone())).await;
    let actions: Vec<&str> =
        first.operations.iter().chain(&second.operations).map(|it| it.action.as_str()).collect();
    assert_eq!(actions, ["delete", "refresh", "update", "create"], "newest first");
    assert_eq!(second.next_page_token, "");
    let elsewhere = v1::ListOperationsRequest { region: "eu".to_owned(), ..page(String::new()) };
    assert_eq!(fixture.list_operations(elsewhere).await.operations, []);
    let bad = fixture.operations().list_operations(page("x".to_owned())).await.expect_err("bad");
    assert_eq!(invalid_fields(&bad)[0].field, "page_token");
}

#[tokio::test]
async fn a_refusal_is_recorded_as_failed_and_goes_to_nobody_else() {
    let fixture = Fixture::start().await;
    let (first, second) =
        (FakePushNode::start(Behaviour::Refuse).await, FakePushNode::start(Behaviour::Obey).await);
    fixture.register_at("eu-1", "eu", first.address()).await;
    fixture.register_at("eu-2", "eu", second.address()).await;
    let response = fixture.execute("eu", create()).await.expect("executed");
    assert_eq!(record(&response).outcome(), OperationOutcome::Failed);
    assert!(record(&response).detail.contains("CHANNEL_EXISTS"), "{response:?}");
    assert_eq!((first.calls(), second.calls()), (1, 0));
}

/// What nobody can have acted on goes to the next node.
#[tokio::test]
async fn nodes_that_take_no_work_are_passed_over() {
    let fixture = Fixture::start().await;
    let (draining, obeying) =
        (FakePushNode::start(Behaviour::Drain).await, FakePushNode::start(Behaviour::Obey).await);
    // Nobody listens at the address of the first.
    fixture.register("eu-0", "eu").await;
    fixture.register_at("eu-1", "eu", draining.address()).await;
    fixture.register_at("eu-2", "eu", obeying.address()).await;
    let response = fixture.execute("eu", create()).await.expect("executed");
    assert_eq!(record(&response).outcome(), OperationOutcome::Done, "{response:?}");
    assert_eq!(record(&response).node, "eu-2");
    assert_eq!((draining.calls(), obeying.calls()), (1, 1));
}

/// An operation that may have had its effect is not sent again.
#[tokio::test]
async fn a_lost_answer_is_unknown_and_is_not_tried_elsewhere() {
    let fixture = Fixture::start().await;
    let (mute, connections) = start_mute().await;
    let obeying = FakePushNode::start(Behaviour::Obey).await;
    fixture.register_at("eu-1", "eu", mute.to_string()).await;
    fixture.register_at("eu-2", "eu", obeying.address()).await;
    let response = fixture.execute("eu", create()).await.expect("executed");
    assert_eq!(record(&response).outcome(), OperationOutcome::Unknown, "{response:?}");
    assert_eq!(record(&response).node, "eu-1");
    assert_eq!((connections.load(Ordering::SeqCst), obeying.calls()), (1, 0));
}

/// A stored edit that is late elsewhere has been done, and the record says both.
#[tokio::test]
async fn a_stored_operation_is_done_also_when_it_is_late() {
    let fixture = Fixture::start().await;
    let late = FakePushNode::start(Behaviour::Late).await;
    fixture.register_at("eu-1", "eu", late.address()).await;
    let response = fixture.execute("eu", create()).await.expect("executed");
    assert_eq!(record(&response).outcome(), OperationOutcome::Done);
    assert!(record(&response).detail.contains("DURABILITY_TIMEOUT"), "{response:?}");
}

#[tokio::test]
async fn a_region_without_a_reachable_node_fails_and_says_why() {
    let fixture = Fixture::start().await;
    let request = v1::ApplyRegionRequest { name: "empty".to_owned() };
    fixture.topology().apply_region(request).await.expect("made");
    fixture.register("eu-1", "eu").await;
    for (region, said) in [("empty", "no active push-node"), ("eu", "nothing was sent")] {
        let response = fixture.execute(region, create()).await.expect("executed");
        assert_eq!(record(&response).outcome(), OperationOutcome::Failed);
        assert!(record(&response).detail.contains(said), "{response:?}");
    }

    let unknown = fixture.execute("mars", create()).await.expect_err("no such region");
    assert_eq!(reason_of(&unknown), Some(Reason::UnknownRegion));
    let bad = Operation::Create(v1::CreateChannelRequest {
        namespace: "news".to_owned(),
        channel: "a//b".to_owned(),
        ..v1::CreateChannelRequest::default()
    });
    let bad = fixture.execute("eu", bad).await.expect_err("no such name");
    assert_eq!(invalid_fields(&bad)[0].field, "create.channel");
    let nothing = v1::ExecuteChannelOperationRequest { region: "eu".to_owned(), operation: None };
    let nothing = fixture.operations().execute_channel_operation(nothing).await;
    assert_eq!(invalid_fields(&nothing.expect_err("nothing to do"))[0].field, "operation");
    // What was refused at the door is not recorded.
    let all = fixture.list_operations(v1::ListOperationsRequest::default()).await;
    assert_eq!(all.operations.len(), 2);
}

fn for_region<T>(message: T, region: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(interlock_control_plane::REGION_METADATA, region.parse().expect("is ASCII"));
    request
}

/// METHOD M3: the operator's other way in, the same calls as at a push-node.
#[tokio::test]
async fn channel_calls_go_to_the_region_that_the_metadata_names() {
    let mut fixture = Fixture::start().await;
    let (eu, us) =
        (FakePushNode::start(Behaviour::Obey).await, FakePushNode::start(Behaviour::Refuse).await);
    fixture.register_at("eu-1", "eu", eu.address()).await;
    fixture.register_at("us-1", "us", us.address()).await;

    let get = || v1::GetChannelRequest { namespace: "news".to_owned(), channel: "a".to_owned() };
    let mut channels = fixture.channels();
    let got = channels.get_channel(for_region(get(), "eu")).await.expect("answers").into_inner();
    assert_eq!(got.channel.map(|it| it.name).as_deref(), Some("a"));
    let refused = channels.get_channel(for_region(get(), "us")).await.expect_err("refuses");
    assert_eq!(reason_of(&refused), Some(Reason::ChannelExists), "the node's own words");

    let missing = channels.get_channel(get()).await.expect_err("which region?");
    assert_eq!(missing.code(), Code::InvalidArgument);
    assert!(missing.message().contains("interlock-region"), "{}", missing.message());
    let unknown = channels.get_channel(for_region(get(), "mars")).await.expect_err("no region");
    assert_eq!(reason_of(&unknown), Some(Reason::UnknownRegion));

    let watch = v1::WatchChannelsRequest { namespace: "news".to_owned(), prefix: String::new() };
    let mut watched =
        channels.watch_channels(for_region(watch, "eu")).await.expect("is watched").into_inner();
    for _ in 0..2 {
        within(watched.message()).await.expect("no error").expect("goes on");
    }
    // A watch without an end does not hold up the control-plane's.
    fixture.stop().await;
    let status = within(watched.message()).await.expect_err("it ends");
    assert_eq!(reason_of(&status), Some(Reason::Draining));
}

#[tokio::test]
async fn health_follows_the_life_of_the_service() {
    let mut fixture = Fixture::start().await;
    let address = fixture.running.as_ref().map(|it| it.listen_address()).expect("runs");
    let endpoint = EndpointConfig::new(address.to_string());
    within(check(&endpoint)).await.expect("serves");
    fixture.stop().await;
    within(check(&endpoint)).await.expect_err("is gone");
}
