// A server whose one method does nothing: what gRPC itself costs in C++, with its callback API.
// Prints its address and serves until it is ended.

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/server_callback_handlers.h>
#include <grpcpp/impl/codegen/service_type.h>

#include <iostream>
#include <memory>
#include <string>

namespace {

class Empty : public grpc::Service {
 public:
  Empty() {
    AddMethod(new grpc::internal::RpcServiceMethod(
        "/keyauthority.v1.KeyAuthorityService/Verify", grpc::internal::RpcMethod::NORMAL_RPC,
        nullptr));
    MarkMethodRawCallback(
        0, new grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer, grpc::ByteBuffer>(
               [](grpc::CallbackServerContext* context, const grpc::ByteBuffer*,
                  grpc::ByteBuffer* answer) {
                 grpc::Slice nothing;
                 *answer = grpc::ByteBuffer(&nothing, 1);
                 auto* reactor = context->DefaultReactor();
                 reactor->Finish(grpc::Status::OK);
                 return reactor;
               }));
  }
};

}  // namespace

int main() {
  Empty service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  std::cout << "127.0.0.1:" << port << std::endl;
  server->Wait();
}
