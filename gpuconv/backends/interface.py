"""The interface of every backend, for type checkers and editors; nothing here runs.

It has a class for each file or folder of ops in `gpuconv.ops`, as in `backend.conv.conv2d(...)`. The signatures are
those of the CUDA backend; a test checks that the other backends have the same parameters.
"""

from gpuconv.backends.cuda import ops


class Backend:
    class activation:
        relu = staticmethod(ops.activation.relu)
        relu_backward = staticmethod(ops.activation.relu_backward)
        relu6 = staticmethod(ops.activation.relu6)
        relu6_backward = staticmethod(ops.activation.relu6_backward)
        leaky_relu = staticmethod(ops.activation.leaky_relu)
        leaky_relu_backward = staticmethod(ops.activation.leaky_relu_backward)
        elu = staticmethod(ops.activation.elu)
        elu_backward = staticmethod(ops.activation.elu_backward)
        sigmoid = staticmethod(ops.activation.sigmoid)
        sigmoid_backward = staticmethod(ops.activation.sigmoid_backward)
        tanh = staticmethod(ops.activation.tanh)
        tanh_backward = staticmethod(ops.activation.tanh_backward)
        gelu = staticmethod(ops.activation.gelu)
        gelu_backward = staticmethod(ops.activation.gelu_backward)
        silu = staticmethod(ops.activation.silu)
        silu_backward = staticmethod(ops.activation.silu_backward)
        hard_swish = staticmethod(ops.activation.hard_swish)
        hard_swish_backward = staticmethod(ops.activation.hard_swish_backward)
        softmax = staticmethod(ops.activation.softmax)

    class arithmetic:
        add = staticmethod(ops.arithmetic.add)
        copy = staticmethod(ops.arithmetic.copy)
        scale = staticmethod(ops.arithmetic.scale)

    class batch:
        load_batch = staticmethod(ops.batch.load_batch)
        mix_batch = staticmethod(ops.batch.mix_batch)

    class conv:
        conv2d = staticmethod(ops.conv.conv2d)
        conv2d_relu = staticmethod(ops.conv.conv2d_relu)
        conv2d_dgrad = staticmethod(ops.conv.conv2d_dgrad)
        conv2d_wgrad = staticmethod(ops.conv.conv2d_wgrad)
        conv2d_backward = staticmethod(ops.conv.conv2d_backward)
        bias_grad = staticmethod(ops.conv.bias_grad)

    class digest:
        digest = staticmethod(ops.digest.digest)

    class dropout:
        dropout = staticmethod(ops.dropout.dropout)
        dropout_backward = staticmethod(ops.dropout.dropout_backward)

    class linear:
        linear = staticmethod(ops.linear.linear)
        linear_dgrad = staticmethod(ops.linear.linear_dgrad)
        linear_wgrad = staticmethod(ops.linear.linear_wgrad)

    class loss:
        softmax_cross_entropy = staticmethod(ops.loss.softmax_cross_entropy)
        svm_hinge = staticmethod(ops.loss.svm_hinge)
        mean_squared_error = staticmethod(ops.loss.mean_squared_error)
        huber_loss = staticmethod(ops.loss.huber_loss)
        binary_cross_entropy = staticmethod(ops.loss.binary_cross_entropy)
        add_metrics = staticmethod(ops.loss.add_metrics)

    class muon:
        muon_step = staticmethod(ops.muon.muon_step)

    class norm:
        batch_norm = staticmethod(ops.norm.batch_norm)
        batch_norm_backward = staticmethod(ops.norm.batch_norm_backward)
        group_norm = staticmethod(ops.norm.group_norm)
        group_norm_backward = staticmethod(ops.norm.group_norm_backward)
        conv2d_batch_norm = staticmethod(ops.norm.conv2d_batch_norm)

    class optim:
        sgd_step = staticmethod(ops.optim.sgd_step)
        adagrad_step = staticmethod(ops.optim.adagrad_step)
        rmsprop_step = staticmethod(ops.optim.rmsprop_step)
        adam_step = staticmethod(ops.optim.adam_step)
        lion_step = staticmethod(ops.optim.lion_step)
        clip_norm = staticmethod(ops.optim.clip_norm)
        clip_values = staticmethod(ops.optim.clip_values)
        update_loss_scale = staticmethod(ops.optim.update_loss_scale)

    class pool:
        max_pool2d = staticmethod(ops.pool.max_pool2d)
        max_pool2d_backward = staticmethod(ops.pool.max_pool2d_backward)
        avg_pool2d = staticmethod(ops.pool.avg_pool2d)
        avg_pool2d_backward = staticmethod(ops.pool.avg_pool2d_backward)
        global_avg_pool2d = staticmethod(ops.pool.global_avg_pool2d)
        global_avg_pool2d_backward = staticmethod(ops.pool.global_avg_pool2d_backward)

    class random:
        random_uniform = staticmethod(ops.random.random_uniform)
        random_normal = staticmethod(ops.random.random_normal)
        random_permutation = staticmethod(ops.random.random_permutation)

    class step_counter:
        advance_step_counter = staticmethod(ops.step_counter.advance_step_counter)
        advance_counter = staticmethod(ops.step_counter.advance_counter)
