//! Hands responses to the connection of a subscriber who may not read them.

use std::time::Duration;

use interlock_core::limits::SUBSCRIBER_STALL_MILLISECONDS;
use tokio::sync::mpsc;

/// How long a subscriber may leave no room before what is kept open for it ends.
const PATIENCE: Duration = Duration::from_millis(SUBSCRIBER_STALL_MILLISECONDS);

/// The subscriber went away.
#[derive(Debug)]
pub(crate) struct Gone;

/// Waits until there is room, however long that takes. After a while `stalled`
/// lets go of what others need meanwhile, such as a stream from a push-node.
pub(crate) async fn hand_over<T>(
    responses: &mpsc::Sender<T>,
    response: T,
    stalled: impl FnOnce(),
) -> Result<(), Gone> {
    hand_over_after(PATIENCE, responses, response, stalled).await
}

async fn hand_over_after<T>(
    patience: Duration,
    responses: &mpsc::Sender<T>,
    response: T,
    stalled: impl FnOnce(),
) -> Result<(), Gone> {
    let room = match tokio::time::timeout(patience, responses.reserve()).await {
        Ok(room) => room,
        Err(_) => {
            stalled();
            responses.reserve().await
        }
    };
    room.map_err(|_| Gone)?.send(response);
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn who_does_not_read_is_let_go_of_and_still_gets_it() {
        let (sender, mut receiver) = mpsc::channel(1);
        let at_once = || panic!("there is room");
        hand_over_after(Duration::ZERO, &sender, 1, at_once).await.expect("there is room");
        let (stalled, told) = oneshot::channel();
        let reading = async {
            told.await.expect("it is told");
            (receiver.recv().await, receiver.recv().await)
        };
        let stalled = || stalled.send(()).expect("somebody waits");
        let handing = hand_over_after(Duration::from_millis(1), &sender, 2, stalled);
        let (handed, read) = tokio::join!(handing, reading);
        handed.expect("it is there");
        assert_eq!(read, (Some(1), Some(2)));
        drop(receiver);
        hand_over(&sender, 3, || {}).await.expect_err("it is gone");
    }
}
