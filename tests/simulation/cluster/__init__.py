"""The whole cluster in one process under virtual time: nameservers, datanodes, brokers and clients of the SDK.

``rpc`` is the network between them.
"""
