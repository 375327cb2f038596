package main

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// The part of the registry's interface that a service in a cluster uses, with the names and numbers that Go programs were generated from.
// It stands here once more on purpose: what the server has under these numbers must stay what old programs expect.

const (
	listFrontiers     = "/controlplane.ClusterService/ListFrontiers"
	getFrontierByEdge = "/controlplane.ClusterService/GetFrontierByEdge"
)

type messages struct {
	frontier, byEdgeRequest, byEdgeResponse, listRequest, listResponse protoreflect.MessageDescriptor
}

func field(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, label descriptorpb.FieldDescriptorProto_Label, of string) *descriptorpb.FieldDescriptorProto {
	field := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &number, Type: &kind, Label: &label}
	if of != "" {
		of = ".controlplane." + of
		field.TypeName = &of
	}
	return field
}

func describe() (*messages, error) {
	const (
		text   = descriptorpb.FieldDescriptorProto_TYPE_STRING
		number = descriptorpb.FieldDescriptorProto_TYPE_UINT64
		nested = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
		one    = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
		many   = descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	)
	message := func(name string, fields ...*descriptorpb.FieldDescriptorProto) *descriptorpb.DescriptorProto {
		return &descriptorpb.DescriptorProto{Name: &name, Field: fields}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name:    proto.String("cluster.proto"),
		Package: proto.String("controlplane"),
		Syntax:  proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{
			message("Frontier", field("frontier_id", 1, text, one, ""), field("advertised_sb_addr", 2, text, one, ""), field("advertised_eb_addr", 3, text, one, "")),
			message("GetFrontierByEdgeIDRequest", field("edge_id", 1, number, one, "")),
			message("GetFrontierByEdgeIDResponse", field("fontier", 1, nested, one, "Frontier")),
			message("ListFrontiersRequest", field("edge_ids", 3, number, many, ""), field("frontier_ids", 4, text, many, "")),
			message("ListFrontiersResponse", field("frontiers", 2, nested, many, "Frontier")),
		},
	}, nil)
	if err != nil {
		return nil, err
	}
	all := file.Messages()
	return &messages{all.Get(0), all.Get(1), all.Get(2), all.Get(3), all.Get(4)}, nil
}

// frontier is a gateway as the registry describes it.
type frontier struct {
	id, services, edges string
}

func readFrontier(message protoreflect.Message) frontier {
	fields := message.Descriptor().Fields()
	text := func(number protoreflect.FieldNumber) string {
		return message.Get(fields.ByNumber(number)).String()
	}
	return frontier{text(1), text(2), text(3)}
}

func newMessage(of protoreflect.MessageDescriptor) *dynamicpb.Message {
	return dynamicpb.NewMessage(of)
}
