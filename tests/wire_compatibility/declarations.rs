//! What the protobuf files declare, one line each.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const PACKAGE: &str = "interlock.v1";

fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(interlock_wire::FILE_DESCRIPTOR_SET).expect("the build wrote it")
}

/// Every field, enum value and method with what it must stay.
pub fn all() -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for file in descriptors().file {
        assert_eq!(file.package(), PACKAGE, "{}", file.name());
        for message in &file.message_type {
            declare_message(message, message.name(), &mut lines);
        }
        for declared in &file.enum_type {
            declare_enum(declared, &mut lines);
        }
        for service in &file.service {
            for method in &service.method {
                let stream = |streams: bool| if streams { "stream " } else { "" };
                let short = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
                lines.insert(
                    format!("rpc {}/{}", service.name(), method.name()),
                    format!(
                        "{}{} -> {}{}",
                        stream(method.client_streaming()),
                        short(method.input_type()),
                        stream(method.server_streaming()),
                        short(method.output_type()),
                    ),
                );
            }
        }
    }
    lines
}

fn declare_message(message: &DescriptorProto, name: &str, lines: &mut BTreeMap<String, String>) {
    for field in &message.field {
        let key = format!("field {name}.{:03}", field.number());
        let oneof = match field.oneof_index {
            Some(index) if !field.proto3_optional() => {
                let oneof = &message.oneof_decl[usize::try_from(index).expect("an index")];
                format!(" in {}", oneof.name())
            }
            _ => String::new(),
        };
        lines.insert(key, format!("{} {}{oneof}", field.name(), type_of(field)));
    }
    for nested in &message.nested_type {
        declare_message(nested, &format!("{name}.{}", nested.name()), lines);
    }
    assert!(message.enum_type.is_empty(), "{name}: enums are declared beside messages");
}

fn declare_enum(declared: &EnumDescriptorProto, lines: &mut BTreeMap<String, String>) {
    for value in &declared.value {
        let key = format!("enum {}.{:03}", declared.name(), value.number());
        lines.insert(key, value.name().to_owned());
    }
}

fn type_of(field: &FieldDescriptorProto) -> String {
    let label = match field.label() {
        Label::Repeated => "repeated ",
        _ if field.proto3_optional() => "optional ",
        _ => "",
    };
    let kind = match field.r#type() {
        Type::Message | Type::Enum => {
            field.type_name().trim_start_matches('.').trim_start_matches(PACKAGE).to_owned()
        }
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    format!("{label}{}", kind.trim_start_matches('.'))
}

/// The field numbers of a message. Of a oneof only the first: one message can
/// hold no more than one of them.
pub fn fields_of(name: &str) -> BTreeSet<u32> {
    let message = descriptors()
        .file
        .into_iter()
        .flat_map(|file| file.message_type)
        .find(|message| message.name() == name)
        .unwrap_or_else(|| panic!("{name} is not declared"));
    message
        .field
        .iter()
        .filter(|field| field.oneof_index.is_none())
        .map(|field| u32::try_from(field.number()).expect("positive"))
        .collect()
}

/// The messages that files declare.
pub fn messages_of(files: &[&str]) -> Vec<String> {
    descriptors()
        .file
        .into_iter()
        .filter(|file| files.iter().any(|name| file.name().ends_with(name)))
        .flat_map(|file| file.message_type)
        .map(|message| message.name().to_owned())
        .collect()
}

/// The field numbers that encoded bytes hold.
pub fn fields_present(mut bytes: &[u8]) -> BTreeSet<u32> {
    let mut present = BTreeSet::new();
    while !bytes.is_empty() {
        let (number, wire_type) = decode_key(&mut bytes).expect("well-formed");
        assert!(!matches!(wire_type, WireType::StartGroup | WireType::EndGroup));
        skip_field(wire_type, number, &mut bytes, DecodeContext::default()).expect("well-formed");
        present.insert(number);
    }
    present
}
