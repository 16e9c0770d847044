//! A subscriber that costs little: it finds the payloads in what a gateway sends and
//! takes nothing else out of it, so that a measurement with a thousand of them
//! measures the gateway.

use bytes::{Buf as _, Bytes};
use interlock_client::v1;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};

/// One response of a subscription, as it came.
#[derive(Clone, Debug)]
pub(super) struct Response(Bytes);

/// `SubscribeResponse.deliveries`, `Delivery.message`, `DeliveredMessage.payload`.
const DELIVERIES: u64 = 1;
const MESSAGE: u64 = 1;
const PAYLOAD: u64 = 7;

impl Response {
    /// Calls for each message with its payload.
    pub(super) fn each_payload(&self, mut take: impl FnMut(&[u8])) {
        for (field, delivery) in fields(&self.0) {
            if field != DELIVERIES {
                continue;
            }
            for (field, message) in fields(delivery) {
                if field == MESSAGE {
                    let payload = fields(message).find(|(field, _)| *field == PAYLOAD);
                    take(payload.map_or(&[], |(_, payload)| payload));
                }
            }
        }
    }
}

/// The fields of a message that have a length; numbers are passed over.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            let tag = varint(&mut bytes)?;
            let length = match tag & 7 {
                0 => {
                    varint(&mut bytes)?;
                    continue;
                }
                1 => 8,
                2 => usize::try_from(varint(&mut bytes)?).ok()?,
                5 => 4,
                _ => return None,
            };
            let (field, rest) = bytes.split_at_checked(length)?;
            bytes = rest;
            if tag & 7 == 2 {
                return Some((tag >> 3, field));
            }
        }
    })
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Asks as every client does, and leaves the answers as they come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CountingCodec;

impl Codec for CountingCodec {
    type Encode = v1::SubscribeRequest;
    type Decode = Response;
    type Encoder = tonic_prost::ProstEncoder<v1::SubscribeRequest>;
    type Decoder = CountingDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        tonic_prost::ProstEncoder::new(tonic::codec::BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        CountingDecoder
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct CountingDecoder;

impl Decoder for CountingDecoder {
    type Item = Response;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Response>, Status> {
        Ok(Some(Response(buffer.copy_to_bytes(buffer.remaining()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payloads_are_those_that_a_client_decodes() {
        let message = |payload: &'static [u8]| v1::Delivery {
            event: Some(v1::delivery::Event::Message(v1::DeliveredMessage {
                channel: "news".to_owned(),
                epoch: 1,
                stamp: u64::MAX,
                message: Some(v1::MessageReference { incarnation: 7, ..Default::default() }),
                payload: Bytes::from_static(payload),
                ..Default::default()
            })),
        };
        let gap = v1::Delivery { event: Some(v1::delivery::Event::Gap(Default::default())) };
        let response = v1::SubscribeResponse {
            deliveries: vec![message(b"first"), gap, message(b""), message(b"third")],
            cursor: Bytes::from_static(b"cursor"),
        };
        let encoded = Bytes::from(prost::Message::encode_to_vec(&response));
        let mut found = Vec::new();
        Response(encoded.clone()).each_payload(|payload| found.push(payload.to_vec()));
        assert_eq!(found, [b"first".to_vec(), Vec::new(), b"third".to_vec()]);
        // Cut anywhere it finds less, and no end that is not there.
        for length in 0..encoded.len() {
            let mut count = 0;
            Response(encoded.slice(..length)).each_payload(|_| count += 1);
            assert!(count <= 3);
        }
    }
}
